//! HTTPS of one bind: the certificate that is presented, read from its files and read again when they change.
//!
//! A connection keeps the certificate that it began with; the next one gets the new one. Files that cannot be used are said
//! loudly and change nothing: an expired certificate is better than none.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    path: PathBuf,
    problem: String,
}

/// An extension of every request that came by TLS of ours.
#[derive(Debug, Clone, Copy)]
pub struct OverTls;

/// TLS for one bind.
pub struct Tls {
    files: TlsFiles,
    presented: Arc<Presented>,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let presented = Arc::new(Presented(ArcSwap::from_pointee(read(&files, &provider)?)));
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let versions = versions.map_err(|error| wrong(&files.certificate, &error))?;
        let mut config = versions.with_no_client_auth().with_cert_resolver(presented.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { files, presented, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Presents what the files hold now. If they cannot be used, what was there before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = read(&self.files, &aws_lc_rs::default_provider())?;
        self.presented.0.store(Arc::new(read));
        Ok(())
    }

    /// Shakes hands.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Reads the files again whenever one of them has changed, until the stop. Says what it did.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.changed_at();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let now = self.changed_at();
            if now == seen {
                continue;
            }
            // Not taken for seen if it fails: a key that is written after its certificate is there at the next look.
            match self.reload() {
                Ok(()) => {
                    seen = now;
                    tracing::info!(tls.certificate = %self.files.certificate.display(), "presenting a new certificate");
                }
                Err(error) => tracing::error!(error = %error, "the new certificate cannot be used; the old one stays"),
            }
        }
    }

    fn changed_at(&self) -> [Option<SystemTime>; 2] {
        [&self.files.certificate, &self.files.key]
            .map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

/// The one certificate, whatever name a client asks for.
struct Presented(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(…)")
    }
}

fn wrong(path: &std::path::Path, problem: &impl fmt::Display) -> TlsError {
    TlsError { path: path.to_owned(), problem: problem.to_string() }
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    use rustls::pki_types::pem::Error;
    let unreadable = |path: &std::path::Path, error: Error| match error {
        Error::NoItemsFound => wrong(path, &"holds none in PEM form"),
        Error::Io(error) => wrong(path, &format_args!("cannot be read: {}", error.kind())),
        // The library's text can quote what stands there.
        _ => wrong(path, &"is not valid PEM"),
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&files.certificate, error))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"holds no certificate in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable(&files.key, error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => wrong(&files.key, &"is not the key of the certificate"),
        _ => wrong(&files.key, &"is no key that can be used with the certificate"),
    })
}
