"""What ``ecograph inspect`` draws: a page in one file, and graphs as DOT and Mermaid.

`tree.py` puts layers, nodes and costs into one tree; `page.py` makes the page of it, from `template.html`, `style.css`
and the scripts beside them; `drawings.py` writes DOT and Mermaid.
"""
