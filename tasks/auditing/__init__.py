"""What fills the audit store from finished stages, and what checks it against them."""
