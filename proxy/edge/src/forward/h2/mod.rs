//! HTTP/2 to endpoints: requests as streams on few connections, in the forwarder's words.

mod connection;
mod exchange;
mod heads;
mod io;

pub(super) use connection::SharedPool;
pub(super) use exchange::{Exchange, Watch};
