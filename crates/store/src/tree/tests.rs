//! Tests of tree operations.
