//! Takes a header off the front of a connection, and not a byte more.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{LONGEST, Origin, Progress, read};

/// Bytes that are looked at in one go; nearly all headers are shorter.
const LOOK: usize = 536;

/// Waits for a header and takes it off: what stands behind it, TLS or HTTP, is left to whoever reads next. One look and
/// one read where the header comes in one piece.
///
/// # Errors
/// The connection broke or ended, or it does not begin with a good header.
pub(crate) async fn receive(stream: &TcpStream) -> io::Result<Origin> {
    let (mut header, mut space) = (Vec::new(), [0; LOOK]);
    loop {
        stream.readable().await?;
        let most = LOOK.min(LONGEST - header.len());
        let look = || Ok(recv(stream, &mut space[..most], RecvFlags::PEEK)?.1);
        let seen = match stream.try_io(Interest::READABLE, look) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let taken = header.len();
        header.extend_from_slice(&space[..seen]);
        let (of_header, origin) = match read(&header) {
            Ok(Progress::More) => (header.len(), None),
            Ok(Progress::Whole(length, origin)) => (length, Some(origin)),
            Err(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        };
        // It was seen, so it is there.
        recv(stream, &mut space[..of_header - taken], RecvFlags::empty())?;
        header.truncate(of_header);
        if let Some(origin) = origin {
            return Ok(origin);
        }
    }
}
