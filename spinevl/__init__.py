"""Fine-tune and compare vision-language models on spine MRI."""
