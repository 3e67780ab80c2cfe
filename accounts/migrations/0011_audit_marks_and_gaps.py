"""The highest position of each audit chain, and the gaps that rows inserted behind a head leave.

The trigger of the heads now also lets a head move by more than one entry, because it skips such rows. Processes of the
previous release move it by one, which stays allowed. Marks are written by a trigger, so that release writes them too.
"""

from django.db import migrations, models

GUARD = '''
CREATE OR REPLACE FUNCTION accounts_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'accounts_audithead' AND TG_OP = 'UPDATE' THEN
        IF NEW.chain = OLD.chain AND NEW.count > OLD.count THEN
            RETURN NEW;
        END IF;
    END IF;
    IF TG_TABLE_NAME = 'accounts_auditmark' AND TG_OP = 'UPDATE' THEN
        IF NEW.chain = OLD.chain AND NEW.count >= OLD.count THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION accounts_audit_mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO accounts_auditmark (chain, count) VALUES (NEW.chain, NEW.count)
    ON CONFLICT (chain) DO UPDATE SET count = EXCLUDED.count WHERE accounts_auditmark.count < EXCLUDED.count;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_head_mark AFTER INSERT OR UPDATE ON accounts_audithead
    FOR EACH ROW EXECUTE FUNCTION accounts_audit_mark();
CREATE TRIGGER audit_mark_guard BEFORE UPDATE OR DELETE ON accounts_auditmark
    FOR EACH ROW EXECUTE FUNCTION accounts_audit_guard();
CREATE TRIGGER audit_gap_guard BEFORE UPDATE OR DELETE ON accounts_auditgap
    FOR EACH ROW EXECUTE FUNCTION accounts_audit_guard();
INSERT INTO accounts_auditmark (chain, count) SELECT chain, count FROM accounts_audithead
    ON CONFLICT (chain) DO NOTHING;
'''
NO_GUARD = '''
DROP TRIGGER audit_gap_guard ON accounts_auditgap;
DROP TRIGGER audit_mark_guard ON accounts_auditmark;
DROP TRIGGER audit_head_mark ON accounts_audithead;
DROP FUNCTION accounts_audit_mark();
CREATE OR REPLACE FUNCTION accounts_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'accounts_audithead' AND TG_OP = 'UPDATE' THEN
        IF NEW.chain = OLD.chain AND NEW.count = OLD.count + 1 THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
'''


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0010_key_parent_indexes'),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditGap',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('chain', models.UUIDField(db_index=True, editable=False)),
                ('first', models.PositiveBigIntegerField(editable=False)),
                ('last', models.PositiveBigIntegerField(editable=False)),
                ('seal', models.CharField(max_length=64)),
                ('pepper_id', models.CharField(max_length=16)),
            ],
        ),
        migrations.CreateModel(
            name='AuditMark',
            fields=[
                ('chain', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('count', models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.RunSQL(GUARD, NO_GUARD),
    ]
