//! Tables of decisions: each rule of the design, held in a small world.

mod filters;
mod outliers;
mod picks;
mod policies;
mod retries;
mod sessions;
mod setbacks;
mod spills;
pub(crate) mod world;
