"""The browser demo: a page that finds landmarks with the exported detector, on the visitor's side.

`site` makes the folder of the page, `vendor` gets the runtime that it needs, `server` shows it on
this machine. The page itself, plain HTML, CSS and JavaScript modules, lies in `page/`.
"""
