//! The pages: what they name is there, what they quote is what is quoted, and the README says the same in both languages.

mod figures;
mod languages;
mod links;
mod messages;
mod names;
mod page;
