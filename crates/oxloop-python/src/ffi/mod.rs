//! The raw C API, and the only unsafe code of the package: safe functions over what PyO3 does
//! not wrap, each block with the reason why it is sound. No reason leans on the global
//! interpreter lock where the build has none.

mod allocator;
pub(crate) mod base_types;
pub(crate) mod bytes;
pub(crate) mod calls;
pub(crate) mod context;
pub(crate) mod creation;
mod free_list;
pub(crate) mod handle;
mod handle_layout;
pub(crate) mod handle_types;
pub(crate) mod handled;
pub(crate) mod interpreter;
pub(crate) mod lent_call;
pub(crate) mod lock;
pub(crate) mod methods;
mod nesting;
pub(crate) mod objects;
pub(crate) mod openssl;
mod panics;
pub(crate) mod references;
pub(crate) mod run_method;
pub(crate) mod slots;
mod stock_handle;
pub(crate) mod template;
pub(crate) mod unowned;
