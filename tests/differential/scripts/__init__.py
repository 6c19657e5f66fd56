"""The scripts: one module for each subject, one `@case` for each thing it pins."""
