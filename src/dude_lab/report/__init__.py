"""`dude report`: the table, curves, costs and answers of finished runs as one HTML page that needs nothing else.

page.py      checks, renders, writes                 page.html, style.css   what the page looks like
payload.py   the numbers that the drawings need      charts.js, curves.js   curves against steps, and their cursor
answers.py   which questions one method has right    plots.js               accuracy, and cost against it
configs.py   the config and provenance of each run    answers.js             the questions; starts everything
"""

from .page import write_page

__all__ = ["write_page"]
