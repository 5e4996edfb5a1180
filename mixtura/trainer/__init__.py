"""The minimal trainer that judges a mixture by fine-tuning."""
