//! Forward: send the request, ask the retry policy on failure, relay the answer.

mod attempt;
mod attempts;
pub(crate) mod canonical;
mod compressed;
mod dial;
mod downstream;
mod flight;
mod h2;
mod heads;
pub(crate) mod hear;
mod hedge;
mod journey;
mod pace;
mod park;
mod personal;
mod queue;
mod relay;
mod sent_body;
mod splice;
mod tries;
pub(crate) mod upstream;

pub(crate) use attempts::forward;
pub(crate) use dial::automatic;
pub(crate) use downstream::{BodyPiece, ClientGone, Downstream, InterimHead, Upload};
pub(crate) use journey::{Ending, Failed, Journey, Prepared, facts as routing_facts};
pub(crate) use queue::place_for_tunnel;
pub(crate) use relay::Cut;
pub(crate) use splice::Pipes;
