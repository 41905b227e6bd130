"""The front: the one port that hospitals reach, a small reverse proxy before Flower's SuperLink.

door.py      who may connect: counts by address before TLS is spoken
protocol.py  how long a request's head may take
app.py       which requests pass, and what each refusal is answered with
badges.py    who sends: a key of the register, a signature of now, used once
body.py      how much, and how slowly
flower.py    which calls of Flower's a site may make, and what is looked at inside them
backend.py   onwards to SuperLink on loopback, streamed both ways
"""
