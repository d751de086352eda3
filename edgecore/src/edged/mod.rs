//! edged.
pub mod backoff;
pub mod observed;
pub mod plan;
pub mod pod;
pub mod resources;
pub mod status;
