//! A session spoken to in raw frames.

mod answers;
mod bodies;
mod fairness;
mod floods;
mod goodbyes;
mod heads;
mod laws;
mod peer;
mod settings;
mod states;
