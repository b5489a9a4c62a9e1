"""Known sources of the seams: per function, the digest of its source and the releases that have it.

`python -m hotreload.openviking.seams` prints the digests of the installed release. Add one only after reading
what changed in that function.
"""

ABSENT = "absent"
"""Stands for a function that a release does not have."""

KNOWN: dict[str, dict[str, str]] = {
    "openviking.config.binding:_build_cluster": {
        "bac2ecc3bb08941ab775178127d5aca9": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.embedding:AccountEmbeddingProvider._execute": {
        "5242bc8695f601dc5ec3e3aee921c13f": "0.5.0",
        "6fe0faf2601ab9a0ff1779363909867c": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.embedding:AccountEmbeddingProvider._resource_for": {
        "4fa89e4dbeea804c2ed6df37a00e4b2b": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.embedding:AccountEmbeddingProvider.embed": {
        "6ec8da8c7b574e0abeac4eb45c28f344": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.embedding:_EmbeddingResource": {
        "e67ec53aca2cd8674e53adef2a69958e": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.manager:RuntimeConfigManager._publish": {
        "7347b7a3bca7796a07cc52b513b26ead": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.manager:RuntimeConfigManager._replace_base_config": {
        "55f20e6728a5cde9fa41b6d49c81ea49": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.manager:RuntimeConfigManager.add_update_consumer": {
        "9b60f914deb434fe4f1167dfccd324d8": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.manager:RuntimeConfigManager.get_settings": {
        "cdeb841dc417160a1d8aeada194b071c": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.manager:RuntimeConfigManager.replace_base_config": {
        "4fef2182324e026820d098631722cf3a": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.vlm:AccountVLMProvider._invalidate": {
        "3948b48d35617517da895bca23b03e7a": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.vlm:AccountVLMProvider._invoke": {
        "d6b3405887c1aaf22715d97f6dc96151": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.vlm:AccountVLMProvider._on_cluster_config_change": {
        "1d0a69397451a59c716a962853716f23": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.config.vlm:AccountVLMProvider._resource_for": {
        "49670b34beac59213cfade2c4d8c8ad2": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.parse.registry:ParserRegistry.__init__": {
        "33735fbd0ba89308c40fb1a7966a1301": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.parse.registry:ParserRegistry._register": {
        "745bcdb44bcef58a81bf5b37111424b8": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.parse.registry:ParserRegistry.get_parser_for_file": {
        "e1a6f81774e76e4e5bf96883095e0e79": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.parse.registry:get_registry": {
        "4db553527ff9fe95afff6c12bce836bd": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.privacy.sanitizer:PrivacySanitizer.__init__": {
        ABSENT: "0.5.0",
        "95d8c4f879e129cd74997a8d35213875": "0.5.1 0.5.1.1",
        "f171681655845aee492894129dcdca1a": "0.5.2",
    },
    "openviking.privacy.sanitizer:PrivacySanitizer._matcher": {
        ABSENT: "0.5.0",
        "0c55aee2b347a140aa34bb873c785585": "0.5.1 0.5.1.1",
        "e1f42dfc27c7caccb5f394671fda41ed": "0.5.2",
    },
    "openviking.retrieve.hierarchical_retriever:HierarchicalRetriever.__init__": {
        "e3fc729498eab4d149f554834e61bd52": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.retrieve.hierarchical_retriever:HierarchicalRetriever._rerank_scores": {
        "e4e0c89b65f1ad3060c28eb04c5a5d89": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.server.app:create_app": {
        "fb70c0ec908c1eaf44f4649aa58d4e52": "0.5.0",
        "60b01c989b64ca8aa308185f2734a6be": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.server.bootstrap:_run_restartable_server": {
        ABSENT: "0.5.0",
        "fee5a3e95f6148d77feb5fb9fe756b76": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.server.bootstrap:_sigterm_runs_finally": {
        ABSENT: "0.5.0",
        "db688797be94bdd9c654ab4e7f7ba689": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.server.dependencies:set_server_config": {
        "85f309a1eccb6b9e6b83490697e929da": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.core:OpenVikingService.close": {
        "6bdaa46a8a9fd926a955a69f332c92cc": "0.5.0",
        "6c4b31a5f5b91b1cbb95a30fa7d66831": "0.5.1 0.5.1.1",
        "cf269ce4d49f39ba12df423e0869cfc7": "0.5.2",
    },
    "openviking.service.core:OpenVikingService.reindex": {
        "f5de64a10813bdd0b5a6e1bb5678c10f": "0.5.0 0.5.1 0.5.1.1",
        "f236f43469bb1522e97e4c25d22fb09f": "0.5.2",
    },
    "openviking.service.reindex_executor:ReindexExecutor.execute": {
        "795b10483616922f7c2a9eee783765b0": "0.5.0",
        "8790799ba331a794bc9c46e7728b2ef6": "0.5.1 0.5.1.1",
        "9ce27a949a4d50b0577b79e3b9e54710": "0.5.2",
    },
    "openviking.service.task_store:PersistentTaskStore._load_task": {
        ABSENT: "0.5.0",
        "3bac59de3cdd49747f4f65861fc6ddad": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_store:PersistentTaskStore._write_task": {
        "d7975181709206cd77579f4edc16dd09": "0.5.0",
        "39acfd80827b122b1a945f3ca170b46f": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.fail": {
        "a48e321e87f696f6ddb0f2daf2504f4a": "0.5.0",
        "634c55e45476dbdbd3ff84d36ce8253b": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.get": {
        "3c6098083c604a9e9e6e2583f261d4b0": "0.5.0",
        "9fcc6d587108945ea9a332de84e35f5f": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.has_active_producer": {
        ABSENT: "0.5.0",
        "db5e013bf5f0352f21d9308c0c0bb23a": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.has_work": {
        "c7a90ef59fb835f18549d79ca2aff478": "0.5.0",
        "a416b27c15c6ce4eaf82ee7b1f234dec": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.list_tasks": {
        "ae192951f92e204c9b1de97b512080d2": "0.5.0",
        "21b8aebb3d7fc1cfa5e6f4d51f6f8e36": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.wait_for_descendants": {
        "452dcf2a3af40669bbc1fe962e123892": "0.5.0",
        ABSENT: "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.wait_for_task_work": {
        ABSENT: "0.5.0",
        "eced38eef31a9742a4983315c5c1e680": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.service.task_tracker:TaskTracker.wait_for_work": {
        ABSENT: "0.5.0",
        "566feb2afa07d1c0dc9caff69400cf1b": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.abstract_overview:body_for_preview": {
        "d0bc7ecab0ab3bbdc33c02855bab1605": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.abstract_overview:parse_overview_file_summaries": {
        "7b5df5d8a9697fdc972e8e87180e635e": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.expr:In": {
        "e85c62b4d64d998624081850a83a2f6d": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.index_consistency:check_index_consistency": {
        "9246d5684ad7a86a18d35b0fec5ce65e": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.named_queue:NamedQueue.ack": {
        "ed7761ef17a156d30ed6a3865b94ca2d": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.named_queue:NamedQueue.dequeue_raw": {
        "9648dba42810a9e605661eddfb70ceca": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.named_queue:NamedQueue.process_dequeued": {
        "38cb740b16ad72d9d287d5bd22608ab6": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.named_queue:NamedQueue.snapshot": {
        "64aa8ce07383f911a4bfccdf3224501a": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.queue_manager:QueueManager._max_concurrent_for_queue": {
        "c5ec80a4288bf9e21a135485d8b1f383": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.queue_manager:QueueManager._queue_worker_loop": {
        "891a3d12e1b5c7da5ebcdede62a445c6": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.queue_manager:QueueManager._start_queue_worker": {
        "607238376bf271a4a55a483be38f052c": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.queue_manager:QueueManager._worker_async_concurrent": {
        "52cb3a3529dc66c62812137568b3d9d4": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.queue_manager:QueueManager.check_status": {
        "51beae88913752057092ab641fcf9245": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.queue_manager:QueueManager.stop": {
        "3bc959fb13881a0102bb713cbd7357ce": "0.5.0",
        "498317fe85a2fa6a2896d8fe32417af5": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeExecutor.__init__": {
        "0d58b77bdaf32d0e177b4c5f33bc1d9a": "0.5.0",
        "2114c2b4b425e18c1a1e0410c9c9dde7": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeExecutor._finish_scheduled_work": {
        "f3e85d8da660ca1ed8666e1c1997760e": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeExecutor._run_work": {
        "ea3677d689a694d5ddec958b8f5aad33": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeExecutor._start_scheduled_work": {
        "43c8f6932546f1ff52fbda7a142957f5": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeExecutor.run": {
        "772811b9ae6f94dfd8c32001c893abb7": "0.5.0",
        "ba072f71d049cb0943edcb5322e4f1eb": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeScheduler._ensure_workers": {
        "546b5a6e352ae12a70ff8edd4922627a": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeScheduler._worker": {
        "91abf65eae304a44b99aaa98e164feee": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:SemanticTreeScheduler.configure": {
        "7d3bfa9a223b06cd0badbbad02e5fc38": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_executor:get_semantic_tree_scheduler": {
        "79a3184342b7ae5435117866a31a737d": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.queuefs.semantic_processor:SemanticProcessor.__init__": {
        "d7e03260780912c24b950398f4589bdd": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.viking_fs:VikingFS.__init__": {
        "e4803e642d14b129f7f9ac7bc341382b": "0.5.0",
        "2987e05b2e9082894be2ba5e4e747468": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.viking_fs:VikingFS.read_file_bytes": {
        "782e5bdfa4cf166df7ef866b8039b14e": "0.5.0",
        "0adc8c3ba5f17a3c6928404c406d07a6": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.viking_fs:VikingFS.stat": {
        "a5077b437590559a0a1c03cea470b53a": "0.5.0 0.5.1 0.5.1.1",
        "a18ac31dc33d7c560ff29322732c0271": "0.5.2",
    },
    "openviking.storage.viking_fs:VikingFS.tree": {
        "e55653172740759aa4a68a6360c2a6cd": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.storage.viking_vector_index_backend:VikingVectorIndexBackend.filter": {
        "0daf558e8997479ac7b8e4467d4afe4a": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.telemetry.request_wait_tracker:RequestWaitTracker.wait_for_embeddings": {
        "b5741fecfa09bd67e31d2a360bb0984e": "0.5.0",
        ABSENT: "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking.utils.model_retry:model_retry_scope": {
        ABSENT: "0.5.0",
        "31c3ba4bf0b990231bad46da807949cd": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking_cli.utils.config.open_viking_config:OpenVikingConfig.from_dict": {
        "bbb9de08aeddb7f92e32974567aed652": "0.5.0",
        "605a54f219af252812e9e0ce8229892f": "0.5.1 0.5.1.1 0.5.2",
    },
    "openviking_cli.utils.config.vlm_config:VLMConfig.get_completion_async": {
        "6428830266e142228928fe2666b394d8": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking_cli.utils.config.vlm_config:VLMConfig.get_vision_completion_async": {
        "eab8573ffaea9d6904f89d7dd9823eb9": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking_cli.utils.logger:_load_log_config": {
        "ae7ee623ef4d6a5e69ada295f17f3463": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking_cli.utils.logger:configure_uvicorn_logging": {
        "5935e8fd0409a2c33f607fe4d5577fc0": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
    "openviking_cli.utils.logger:reconfigure_logging": {
        "991c5d5ec1e27b3f1267bd5a45e0b218": "0.5.0 0.5.1 0.5.1.1 0.5.2",
    },
}
