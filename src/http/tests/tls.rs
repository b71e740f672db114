//! HTTPS: the same server behind a handshake, with the same deadlines, and certificates that change under it.

use std::fs;
use std::path::Path;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use super::*;
use crate::config::TlsFiles;
use crate::http::server::Entrance;
use crate::http::tls::Tls;

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transport").join(name)
}

/// A certificate in a folder of its own, so that a test can change it.
fn installed(name: &str) -> (tempfile::TempDir, TlsFiles) {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    install(&files, name);
    (folder, files)
}

fn install(files: &TlsFiles, name: &str) {
    fs::copy(file(&format!("{name}.pem")), &files.certificate).unwrap();
    fs::copy(file(&format!("{name}.key")), &files.key).unwrap();
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap()
}

impl TestServer {
    async fn behind(tls: &Arc<Tls>, limits: ServerLimits) -> Self {
        let queue = FakeQueue::confirming();
        let webhooks = Webhooks::new(receiver(&queue), WebhookLimits::default());
        let listener = server::bind("FINHOOK_HTTP_BIND", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new(Duration::from_millis(300));
        let (router, stop, entrance) =
            (webhooks.router(), shutdown.clone(), Entrance::new(listener, Some(tls.clone())));
        let ended = tokio::spawn(async move { server::serve(entrance, router, limits, &stop).await });
        Self { address, queue, webhooks, shutdown, ended }
    }

    /// A connection of a client that trusts one authority.
    async fn over_tls(&self, authority: &str) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(authority)).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Client { stream, unread: Vec::new() })
    }
}

impl Client<TlsStream<TcpStream>> {
    fn sees(&self, name: &str) -> bool {
        let (_, connection) = self.stream.get_ref();
        connection.peer_certificates().unwrap()[0] == certificate(name)
    }
}

#[tokio::test]
async fn a_delivery_by_https_is_taken_like_any_other() {
    let (_folder, files) = installed("server");
    let server = TestServer::behind(&Arc::new(Tls::load(files).unwrap()), ServerLimits::default()).await;
    let mut client = server.over_tls("ca").await.unwrap();
    for _ in 0..2 {
        client.send(post("/webhooks/unit", "good", "{}")).await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert!(server.over_tls("other-ca").await.is_err(), "another authority vouches for nothing");
    let mut plain = server.connect().await;
    plain.send(post("/webhooks/unit", "good", "{}")).await;
    assert!(plain.answer().await.is_none(), "nothing is taken in the clear");
    assert_eq!(server.queue.published().len(), 2);
}

#[tokio::test]
async fn a_new_certificate_is_presented_to_the_next_connection_and_drops_none() {
    let (_folder, files) = installed("server");
    let tls = Arc::new(Tls::load(files.clone()).unwrap());
    let server = TestServer::behind(&tls, ServerLimits::default()).await;
    let mut before = server.over_tls("ca").await.unwrap();
    install(&files, "renewed");
    tls.reload().unwrap();
    assert!(server.over_tls("ca").await.unwrap().sees("renewed"));
    before.send(post("/webhooks/unit", "good", "{}")).await;
    assert_eq!(before.answer().await.unwrap().status, 200);
    assert!(before.sees("server"));
    // A renewal that was interrupted between its two files.
    fs::copy(file("server.pem"), &files.certificate).unwrap();
    let problem = tls.reload().unwrap_err().to_string();
    assert!(problem.ends_with("key.pem: is not the key of the certificate"), "{problem}");
    fs::write(&files.certificate, "hunter2").unwrap();
    let problem = tls.reload().unwrap_err().to_string();
    assert!(problem.contains("cert.pem") && !problem.contains("hunter2"), "{problem}");
    assert!(server.over_tls("ca").await.unwrap().sees("renewed"), "the last good one stays");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (_folder, files) = installed("server");
    let limits = ServerLimits { head_time: Duration::from_millis(60), ..ServerLimits::default() };
    let server = TestServer::behind(&Arc::new(Tls::load(files).unwrap()), limits).await;
    let mut silent = server.connect().await;
    assert!(silent.is_closed().await);
    let mut slow = server.connect().await;
    slow.send([0x16, 0x03, 0x01]).await;
    assert!(slow.answer().await.is_none());
    let mut no_head = server.over_tls("ca").await.unwrap();
    assert!(no_head.answer().await.is_none(), "after the handshake the head has its deadline too");
}
