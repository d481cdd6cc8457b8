//! The harness: starts the real binary, stands in for its endpoints and its clients.
//!
//! Promises: everything is seen from outside (sockets, files, signals, exit codes); every wait is a
//! poll with a deadline; what a test started dies with it. Refuses to know: any crate of Meridian.
//!
//! `MERIDIAN_BIN` names another binary than the one that was built last; the text of `MERIDIAN_TEST_EDGE`
//! (`splice = false`) is added to the `[edge]` table of every configuration that does not set these keys.

mod address;
mod admin;
mod answer;
mod backend;
mod binary;
mod client;
mod edge;
mod h2_backend;
pub mod h2_frames;
mod history;
mod load;
mod message;
mod pattern;
mod pebble;
mod process;
mod raw;
mod region_process;
mod settings;
mod site;
mod wait;
mod websocket;
mod wire;

pub use address::{free_address, loopback};
pub use admin::Admin;
pub use answer::{Answer, Body};
pub use backend::{Backend, Shaken};
pub use binary::meridian as program;
pub use client::{Broken, Client, request_bytes};
pub use edge::{Meridian, Signal};
pub use h2_backend::{H2Backend, H2Request, H2Settings};
pub use load::{Account, Ask, Load, Outcome, tally};
pub use message::{Fields, Received, Response};
pub use pattern::{Checked, block, stream as pattern_stream};
pub use pebble::{Pebble, PebblePlace, PebbleSettings, pebble_is_installed};
pub use process::{Process, run};
pub use raw::{End, Exchange, end_of, exchange};
pub use region_process::RegionProcess;
pub use settings::{by_priority, one_region, regions};
pub use site::{Pair, Site};
pub use wait::{eventually, poll};
pub use websocket::{open_websocket, ping_pong};
pub use wire::Wire;
