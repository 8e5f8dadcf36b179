//! What should be: config file, registry, validation, route table.
//!
//! Nothing here spawns a process or speaks HTTP, and only the registry has a connection, that to its database;
//! beside [`nocobase`], which reads another's once.
//! Read [`spec`] for the validated domain, [`mod@file`] for how the file becomes that, [`route`] for how a request
//! finds an app, [`registry`] for apps that are made at run time.
pub mod file;
pub mod interned;
pub mod name;
pub mod nocobase;
pub mod path;
pub mod problem;
pub mod registry;
pub mod route;
pub mod schema;
pub mod spec;
