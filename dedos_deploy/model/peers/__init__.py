"""Published open-vocabulary models in the graph contract, read from their authors' checkpoints."""

from dedos_deploy.model.peers.cat_seg import CatSeg
from dedos_deploy.model.peers.checkpoints import PEERS, Peer, load_peer
from dedos_deploy.model.peers.san import San

__all__ = ["PEERS", "CatSeg", "Peer", "San", "load_peer"]
