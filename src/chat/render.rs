//! Markdown to the HTML that Matrix allows.
