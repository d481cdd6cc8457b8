//! Forward: send the request, ask the retry policy on failure, relay the answer.

mod attempt;
pub(crate) mod canonical;
mod dial;
mod downstream;
mod flight;
mod h2;
mod heads;
pub(crate) mod hear;
mod hedge;
mod pace;
mod park;
mod queue;
mod relay;
mod sent_body;
mod splice;
mod tries;
pub(crate) mod upstream;

pub(crate) use attempt::{Ending, Failed, Journey, Prepared, facts as routing_facts, forward};
pub(crate) use dial::automatic;
pub(crate) use downstream::{BodyPiece, ClientGone, Downstream, InterimHead, Upload};
pub(crate) use queue::place_for_tunnel;
pub(crate) use relay::Cut;
pub(crate) use splice::Pipes;
