"""The browser demo: a page that runs an exported detector on the visitor's machine.

`site` builds the folder of the page, `vendor` downloads the runtime that it needs, `server` serves
it locally. The page itself, plain HTML, CSS and JavaScript modules, is in `page/`.
"""
