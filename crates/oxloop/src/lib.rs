//! placeholder
#![deny(unsafe_code)]
pub mod engine;
pub mod error;
mod transport;
#[allow(unsafe_code)]
mod sys;
