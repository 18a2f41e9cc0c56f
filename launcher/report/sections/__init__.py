"""What a report says, a module for each section: from a RunRecord to parts of the page."""
