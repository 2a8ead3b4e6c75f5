"""Changes a Kafka cluster.

    admin.py HOST:PORT create-topic NAME PARTITIONS
    admin.py HOST:PORT allow-all USER            may do everything but what is denied
    admin.py HOST:PORT deny-write USER TOPIC
    admin.py HOST:PORT permit-write USER TOPIC   takes that back
    admin.py HOST:PORT count TOPIC               prints how many records were ever written to it
"""

import sys

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    NewTopic,
    ResourcePattern,
    ResourceType,
)


def acls(user, topic, permission):
    pattern = ResourcePattern(ResourceType.TOPIC, topic)
    return [ACL(f"User:{user}", "*", ACLOperation.WRITE, permission, pattern)]


def main():
    admin, command, arguments = KafkaAdminClient(bootstrap_servers=sys.argv[1]), sys.argv[2], sys.argv[3:]
    if command == "create-topic":
        name, partitions = arguments
        admin.create_topics([NewTopic(name=name, num_partitions=int(partitions), replication_factor=1)])
    elif command == "allow-all":
        (user,) = arguments
        kinds = [(ResourceType.TOPIC, "*"), (ResourceType.CLUSTER, "kafka-cluster")]
        admin.create_acls(
            [
                ACL(f"User:{user}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
                for kind, name in kinds
            ]
        )
    elif command == "deny-write":
        admin.create_acls(acls(*arguments, ACLPermissionType.DENY))
    elif command == "permit-write":
        user, topic = arguments
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        admin.delete_acls([ACLFilter(f"User:{user}", "*", ACLOperation.WRITE, ACLPermissionType.DENY, pattern)])
    elif command == "count":
        (topic,) = arguments
        consumer = KafkaConsumer(bootstrap_servers=sys.argv[1], group_id=None)
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        print(sum(consumer.end_offsets(partitions).values()) if partitions else 0)
    else:
        raise SystemExit(f"unknown command {command}")
    admin.close()


main()
