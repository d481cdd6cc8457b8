//! HPACK (RFC 7541): header blocks of clients decoded, blocks of answers written.

mod decoder;
mod encoder;
mod huffman;
mod static_table;

pub(crate) use decoder::{Decoder, Field};
pub use encoder::HeadWriter;
