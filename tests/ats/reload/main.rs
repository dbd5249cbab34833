//! Chains are swapped while they serve: by a message of the operator's, by files that are watched, and by ATS's own reload,
//! which loads what changed and nothing else.
#![forbid(unsafe_code)]

mod flight;
mod messages;

mod storm;
mod support;
mod upgrade;
mod watching;
