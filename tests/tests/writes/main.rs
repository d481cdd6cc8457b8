//! Writes: only to the primary of the epoch in force, sent again where they were not executed, parked where there is none.

mod fencing;
mod handed_over;
mod parking;
mod scene;
