"""What written reports share: tables, plots, the HTML page, and a folder that only ever loses files of its own."""
