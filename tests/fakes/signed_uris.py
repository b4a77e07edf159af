"""Addresses with secrets in them, some of them only nearly any, and what may be shown of them."""

from __future__ import annotations

SIGNED_URIS = [
    ("https://me:SECRET@host/x.jpg?sig=SECRET#SECRET", "https://host/x.jpg"),
    ("https://host/a b.jpg?X-Amz-Signature=SECRET", "https://host/a b.jpg"),
    ("https://host/a  b c.jpg#SECRET=1", "https://host/a  b c.jpg"),
    ("https://host/a b@2x//c.jpg?sig=SECRET&x=SECRET", "https://host/a b@2x//c.jpg"),
    ("https://host/a ://b.jpg?sig=SECRET#SECRET", "https://host/a ://b.jpg"),
    ("https:/host/x?sig=SECRET", "https:/host/x"),
    ("https:/me:SECRET@host/x", "https:/host/x"),
    ("https:///me:SECRET@host/x?SECRET", "https:///host/x"),
    ("//me:SECRET@cdn/x?token=SECRET", "//cdn/x"),
    ("//SECRET@cdn/x", "//cdn/x"),
    ("postgresql://u:SEC/RET@h/db", "postgresql://h/db"),
    ("s3://AK:SEC/RET@bucket/x", "s3://bucket/x"),
    ("s3://AK:SEC?R#ET@bucket/x", "s3://bucket/x"),
    ("s3a://AK:1/SEC/RET+=@bucket/x", "s3a://bucket/x"),
    ("s3://AK:SE@CRET@bucket/x", "s3://bucket/x"),
]
