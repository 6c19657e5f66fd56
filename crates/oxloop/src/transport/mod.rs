//! What the loop hands back.
pub mod connection_state;
pub mod flow_control;
pub mod gather;
pub mod write_buffer;
