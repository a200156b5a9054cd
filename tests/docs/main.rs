//! The pages: what they name exists, what they quote is quoted exactly, and both languages say the same.

mod figures;
mod languages;
mod links;
mod messages;
mod names;
mod page;
