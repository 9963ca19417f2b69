"""What the method starts from where nothing published can be had: small CLIPs, diffusions, trunks,
text towers, and the labels and features of teachers."""
