//! Certificates by ACME, issued by Debian's `pebble`: challenges, accounts, renewal, what is kept, and what goes wrong.

mod faults;
mod issue;
mod keep;
mod stage;
