"""What the command prints: tables and lines, and jobs drawn in place while they train."""
