//! What should be: config file, validation, route table.
//!
//! Nothing here spawns a process, opens a socket or speaks HTTP. Read [`spec`] for the validated
//! domain, [`mod@file`] for how the file becomes that, [`route`] for how a request finds an app.
pub mod file;
pub mod interned;
pub mod name;
pub mod path;
pub mod problem;
pub mod route;
pub mod schema;
pub mod spec;
