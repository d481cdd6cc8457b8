//! The admin endpoint's socket.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use meridian_config::AdminAddress;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::Admin;
use super::access::Peer;
use super::gate::Gate;
use super::patience::Patience;

/// Connections at a time; those beyond wait in the system's queue.
const CONNECTIONS: usize = 256;
/// A request head must have come by then, on a kept connection, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Some of an answer must be taken within so long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head, bytes.
const HEAD_LIMIT: usize = 32 << 10;
/// After an accept failed for want of files or memory.
const RECOVERY: Duration = Duration::from_millis(100);

/// The admin endpoint's socket of another process.
#[derive(Debug)]
pub struct InheritedAdmin {
    /// Its address, as it is configured there.
    pub address: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// A socket that is bound, but not served yet.
#[derive(Debug)]
pub(crate) enum AdminListener {
    Tcp(std::net::TcpListener),
    /// With its path, which goes when this is dropped.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// A unix socket's file; taken away with the process, unless another one has taken over.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf, Gate);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.1.is_owner() {
            // If it is gone already, that is as well.
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl AdminListener {
    /// Binds. A unix socket that nobody listens on any more is replaced; its mode is 0660.
    pub(crate) fn bind(address: &AdminAddress, gate: &Gate) -> io::Result<Self> {
        match address {
            AdminAddress::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            AdminAddress::Unix(path) => {
                remove_stale(path)?;
                let listener = std::os::unix::net::UnixListener::bind(path)?;
                let file = SocketFile(path.clone(), gate.clone());
                fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// Takes a socket over that another process has bound; binds if the address is another one by now.
    pub(crate) fn inherit(
        inherited: InheritedAdmin,
        address: &AdminAddress,
        gate: &Gate,
    ) -> io::Result<Self> {
        if inherited.address != address.to_string() {
            return Self::bind(address, gate);
        }
        let socket = inherited.socket;
        Ok(match address {
            AdminAddress::Tcp(_) => Self::Tcp(socket.into()),
            AdminAddress::Unix(path) => {
                Self::Unix(socket.into(), SocketFile(path.clone(), gate.clone()))
            }
        })
    }

    /// The socket, for another process.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Where it listens, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string())
            }
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }
}

/// Takes away a socket that nobody listens on; anything else there is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket"));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    fs::remove_file(path)
}

/// Serves for ever.
pub(crate) async fn serve(listener: AdminListener, admin: Arc<Admin>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    match listener {
        AdminListener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                match admin.gate.accept(|| listener.accept()).await {
                    Ok((stream, peer)) => {
                        // Without it answers are late, not wrong.
                        let _ = stream.set_nodelay(true);
                        let connection = converse(admin.clone(), stream, Peer::Tcp(peer));
                        tokio::spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    Err(error) => recover(&error).await,
                }
            }
        }
        AdminListener::Unix(listener, file) => {
            let listener = UnixListener::from_std(listener)?;
            let _file = file;
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                match admin.gate.accept(|| listener.accept()).await {
                    Ok((stream, _)) => {
                        let user = stream.peer_cred().ok().map(|cred| cred.uid());
                        let connection = converse(admin.clone(), stream, Peer::Unix(user));
                        tokio::spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    Err(error) => recover(&error).await,
                }
            }
        }
    }
}

async fn recover(error: &io::Error) {
    tracing::warn!(target: "admin", %error, "a connection could not be accepted");
    tokio::time::sleep(RECOVERY).await;
}

async fn converse<S>(admin: Arc<Admin>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(request, peer).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_LIMIT);
    let stream = TokioIo::new(Patience::new(stream, WRITE_TIMEOUT));
    if let Err(error) = builder.serve_connection(stream, service).await {
        tracing::debug!(target: "admin", %error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let address = AdminAddress::Unix(path.clone());
        let gate = Gate::new(true);
        let listener = AdminListener::bind(&address, &gate).expect("binds");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let taken = AdminListener::bind(&address, &gate).expect_err("somebody listens");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists(), "it goes with its listener");
        // As a process leaves it that had no time to clean up.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists());
        assert!(AdminListener::bind(&address, &gate).is_ok());
        fs::write(&path, "precious").expect("writes");
        let refused = AdminListener::bind(&address, &gate).expect_err("that is no socket");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    }
}
