//! The built-in facilitator on a chain that lies.
