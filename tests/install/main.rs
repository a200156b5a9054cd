//! The plugin on a node: what becomes of lists that get its entry, install.sh, an installer that is killed at any step or
//! not alone, and the keeper in a container's root. Each test has a root directory of its own.

mod crash;
mod deploy;
mod keeper;
mod lists;
mod machine;
mod script;
mod together;
mod uninstall;
