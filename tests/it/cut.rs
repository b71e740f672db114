//! A way to a server that can be cut: whoever goes it loses the connection, and may come again.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// A TCP proxy on a free port.
pub struct Way {
    /// The server's URL through it.
    pub url: String,
    cut: Arc<broadcast::Sender<()>>,
}

impl Way {
    /// To the server that a URL with user and port names.
    pub async fn to(url: &str) -> Self {
        let authority =
            url.split(['@', '/']).find(|part| part.rsplit_once(':').is_some_and(|(_, end)| end.parse::<u16>().is_ok()));
        let target = authority.unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let through = url.replacen(&target, &listener.local_addr().unwrap().to_string(), 1);
        let cut = Arc::new(broadcast::Sender::new(1));
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Ok(mut server) = TcpStream::connect(&target).await else { continue };
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { url: through, cut }
    }

    /// Ends every connection on it.
    pub fn cut(&self) {
        // Nobody has to be on it.
        let _ = self.cut.send(());
    }
}
