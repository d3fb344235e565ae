"""What a privacy curve means: trade-off functions, risks of attacks, other units of privacy."""
