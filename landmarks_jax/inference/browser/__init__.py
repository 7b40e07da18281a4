"""Pages in the browser: one that runs an exported detector, and one that labels photos.

`site` builds the folder of the detector's page, `vendor` downloads the runtime that it needs,
`server` serves it locally; `label_server` serves the other page and saves its points. The pages
themselves, plain HTML, CSS and JavaScript modules, are in `page/` and `label_page/`.
"""
