//! One test binary; modules in the order of their cost.

mod contract;
