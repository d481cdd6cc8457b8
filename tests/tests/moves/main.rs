//! Moves of the primary: planned, after a loss, back again; and whatever breaks in the middle.

mod automatic;
mod broken;
mod manual;
mod planned;
mod world;
