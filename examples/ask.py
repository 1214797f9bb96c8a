"""Ask a merged model a question, with plain transformers and nothing else: python examples/ask.py FOLDER [QUESTION]."""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = "Hana has 5 baskets with 4 stickers in each. She sells 1 stickers. How many stickers does Hana have now?"

folder, question = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else QUESTION
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
tokens = tokenizer(f"Question: {question}\nAnswer:", return_tensors="pt", return_token_type_ids=False)
answer = model.generate(**tokens, max_new_tokens=80, do_sample=False)[0, tokens.input_ids.shape[1] :]
print(f"\nQ: {question}\nA: {tokenizer.decode(answer, skip_special_tokens=True).strip()}")
