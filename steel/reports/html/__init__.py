"""Pages that carry everything inside: text, tables, charts as SVG, pictures; no request to anywhere."""
