"""Private fine-tuning on real tasks: accountants and recipes compared over seeds (`make study`)."""
