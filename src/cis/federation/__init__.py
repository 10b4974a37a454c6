"""What crosses between nodes: runs and control one way, state back; in the order of its two sides.

``origin`` is the side of the node that accepted a run, ``executing`` that of the node which runs it for another; they
know nothing of each other but the codec: ``records`` and ``messages`` write and read all that crosses. ``inbox`` gives
each message to its side, and answers what belongs to neither (a ping); ``restored`` is a node after a backup, which
concerns both; ``service`` is what the services of both use of their node and of the way to peers.

One word for each thing, in code; on the wire, in the database and in JSON names stay as they were.

    post               put a message into the outbox, in the transaction of what it is about
    send               try once to bring a message to a peer, or into the room
    receive            act on a message of another node
    take on            put a run of another node into this node's queue
    report             say how a run goes, in a status message; the origin *applies* it
    origin             the node that accepted a run, origin_id; of an offer it is the *arbiter*
    executing node     the node that runs it; under a lease its *holder*. The row and JSON of a run name it owner_node
    sender, target     who signed a message, and whom it is for: ids of nodes
    peer               the record of a trusted node; peer_id is the id of the other node that has a part in a run
    node_id            the id of a node, whichever
"""
