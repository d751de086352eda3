//! Controllers of namespaces: what each one holds from the start, and how one ends.

pub(crate) mod contents;
pub(crate) mod finalize;
