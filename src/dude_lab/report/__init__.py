"""`dude report`: the table, curves, costs and answers of finished runs as one HTML page that needs nothing else.

page.py          checks, renders, writes              page.html, style.css   what the page looks like
payload.py       the data that the drawings need      charts.js, curves.js   curves against steps, and their cursor
answer_table.py  questions answered differently       plots.js               accuracy, and accuracy against cost
configs.py       config and provenance of each run    answers.js             the questions; starts everything
"""

from .page import write_page

__all__ = ["write_page"]
