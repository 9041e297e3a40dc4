"""The audit: a chain of signed entries, and the signed statements that promotions rest on.

What each part proves, and to whom:

- An entry's hash covers its body, and its body names the hash of the entry before: an entry that is altered, removed
  from the middle or put between two others breaks the chain.
- Whoever can write the database could compute the chain anew. He cannot sign it: each hash is signed with the server's
  key, which is not in the database.
- Removing the newest entries leaves a valid chain. The server keeps a signed checkpoint of the newest entry in a file
  beside the database, and finds it contradicted.
- Whoever holds the signing key, or puts back an older copy of the whole state folder, is found only by a checkpoint
  that was kept elsewhere.
"""
